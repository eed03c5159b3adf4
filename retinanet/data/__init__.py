"""Images and annotations: decoding, augmentation, batches."""
