"""A user's own images and masks, in any of the layouts that `layouts` knows."""
