"""The network: backbone, feature pyramid, heads, and pretrained weights."""
