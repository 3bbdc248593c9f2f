"""Python metadata. colcon builds the package from CMakeLists.txt and does not read this."""

from pathlib import Path

from setuptools import find_packages, setup

SHIPPED = [
    file
    for folder in ("config", "launch")
    for file in sorted(Path(folder).rglob("*"))
    if file.is_file() and "__pycache__" not in file.parts
]

setup(
    name="upsnet_ros",
    version="0.1.0",
    description="UPSNet panoptic segmentation of camera topics",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    # The repository root goes on sys.path in an editable install: setuptools' import hook would
    # lose to the folder of generated messages in site-packages (see upsnet_ros/__init__.py).
    package_dir={"": "."},
    packages=find_packages(include=["upsnet_ros", "upsnet_ros.*"]),
    package_data={"upsnet_ros": ["py.typed", "evaluation/report.*", "view/page.*", "weights/*"]},
    # Where colcon puts them too: bags are read by these definitions where no messages were built,
    # label maps and the transport profile are found by their names, and documents name the rest.
    data_files=[
        ("share/upsnet_ros/msg", sorted(map(str, Path("msg").glob("*.msg")))),
        *((f"share/upsnet_ros/{file.parent}", [str(file)]) for file in SHIPPED),
    ],
    # Ranges; requirements/*.txt pin what is tested. No ROS package is named here or in an extra:
    # rclpy and the messages come from the ROS install, or from the wheels of requirements/ros.txt.
    install_requires=[
        "numpy>=1.26",
        "opencv-python-headless>=4.9",
        "psutil>=5.9",
        "pyyaml>=6",
        "rich>=13",
        "safetensors>=0.4",
        "scipy>=1.8",
        "torch>=2.6",
        "torchvision>=0.21",
        "typer>=0.12",
    ],
    extras_require={
        "bench": ["nvidia-ml-py>=12"],  # how busy a GPU is
        "train": [
            "kornia-rs>=0.2",
            "pillow>=10",
            "pycocotools>=2.0.8",
            "pydantic>=2.8",
            "tensorboard>=2.16",
        ],
        "evaluate": ["jinja2>=3.1", "kornia-rs>=0.2", "pycocotools>=2.0.8"],
        # Image encodings where cv_bridge is not installed, and bags without rosbag2. rosbags is
        # held to the line whose writers bags.writer flushes.
        "bags": [
            "apsw>=3.45",
            "lz4>=4",
            "mcap>=1.4",
            "rosbags>=0.11,<0.12",
            "rosbags-image>=0.10",
            "zstandard>=0.22",
        ],
        # Bags evaluated by many workers; beside `evaluate` and `bags`.
        "cluster": ["msgspec>=0.19", "ray>=2.52"],
    },
    entry_points={"console_scripts": ["upsnet = upsnet_ros.cli:main"]},
)
