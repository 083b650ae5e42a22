"""What a network is trained for: segmentation or classification."""
