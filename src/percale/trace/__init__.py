"""One probe packet's way, there and back, hop by hop: seen in the kernels of all places, told with names and rules."""
