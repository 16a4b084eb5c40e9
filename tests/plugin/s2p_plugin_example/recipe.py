"""A recipe is the place of a YAML file."""

from pathlib import Path

TOY = Path(__file__).with_name("toy.yaml")
