"""Installs minip2p: the package, the command `minip2p`, and the shipped tiny weights inside the package."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
README = HERE / "README.md"
USE = {
    "app": ["gradio>=6"],
    "data": ["datasets"],
    "hub": ["huggingface_hub"],
    "lessons": ["ipykernel", "matplotlib", "nbclient"],
    "log": ["tensorboard"],
    "plot": ["matplotlib"],
    "ray": ["ray"],
    "text": ["ftfy"],
}
ORACLES = ["diffusers", "transformers", "accelerate", "peft"]
EXTRAS = USE | {
    "test": [
        "pytest",
        "pytest-xdist",
        "hypothesis",
        *ORACLES,
        *(name for extra in ("data", "hub", "plot", "ray", "text") for name in USE[extra]),
    ],
    "dev": ["ruff", "mypy"],
    "docs": ["pdoc>=16"],
    "all": sorted({name for names in USE.values() for name in names}),
}

setup(
    name="minip2p",
    version=re.search(r'^__version__ = "(.+)"', (HERE / "minip2p/__init__.py").read_text(), re.MULTILINE)[1],
    description="InstructPix2Pix from text to trained editor, in one small package",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.7",
        "torchvision",
        "einops",
        "safetensors",
        "sentencepiece",
        "numpy",
        "regex",
        "tqdm",
        "pillow",
        "pydantic>=2",
        "tyro>=1.0",
    ],
    extras_require=EXTRAS,
    packages=[*find_packages(include=["minip2p", "minip2p.*"]), "minip2p._weights"],
    package_dir={"minip2p._weights": "weights/tiny"},  # beside the package in a clone, within it in a wheel
    package_data={"minip2p": ["py.typed"], "minip2p.text": ["data/*"], "minip2p._weights": ["*"]},
    entry_points={"console_scripts": ["minip2p = minip2p.cli:main"]},
)
