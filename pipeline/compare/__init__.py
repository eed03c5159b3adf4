"""Which of two runs is better: paired bootstrap of AP over the images, what changed, and the pictures that tell."""
