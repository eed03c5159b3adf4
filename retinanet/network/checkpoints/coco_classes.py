"""The 80 classes of COCO with the ids of its annotation files, which leave out 10 of 1..90."""

from __future__ import annotations

NAMES = """\
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag,
tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush"""
WITHOUT_CLASS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Ids of classes that were named, but not annotated."""
NUM_IDS = 91
"""Ids 0..90; torchvision has a logit for each."""

COCO_CLASSES = {
    number: name.strip()
    for number, name in zip(
        [number for number in range(1, NUM_IDS) if number not in WITHOUT_CLASS], NAMES.split(","), strict=True
    )
}
"""Id and name, in ascending order of the ids."""
