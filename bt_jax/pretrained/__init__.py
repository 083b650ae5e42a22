"""Published weights of ResNet-50 and EfficientNet-Lite, converted to our names."""
