"""What addresses mean by an AddressPlan: read, checked, the next free one, and the plan as other objects. Pure."""
