"""The wireguard backend: encrypted tunnels."""
