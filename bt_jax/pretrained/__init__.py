"""Published ResNet-50 weights as trees of our names."""
