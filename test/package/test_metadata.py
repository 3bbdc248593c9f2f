"""What is said in several places agrees: package.xml, setup.py, CMakeLists.txt, requirements/."""

import ast
import re
import runpy
import sys
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ElementTree.parse(ROOT / "package.xml").getroot()
MODULES = sorted((ROOT / "upsnet_ros").rglob("*.py"))

# Modules that ROS's apt packages bring, with the rosdep key of each where it has another name.
ROS_MODULES = {
    "ament_index_python",
    "builtin_interfaces",
    "cv_bridge",
    "diagnostic_msgs",
    "geometry_msgs",
    "launch",
    "launch_ros",
    "lifecycle_msgs",
    "rcl_interfaces",
    "rclpy",
    "rosgraph_msgs",
    "sensor_msgs",
    "std_msgs",
    "std_srvs",
}
ROSDEP_KEYS = {
    "cv2": "python3-opencv",
    "numpy": "python3-numpy",
    "scipy": "python3-scipy",
    "yaml": "python3-yaml",
}
# pip's names of modules that pip brings on a ROS machine too.
PIP_NAMES = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "kornia_rs": "kornia-rs",
    "yaml": "pyyaml",
}
# Used where they are installed, and done without elsewhere.
OPTIONAL = {"cv_bridge", "pynvml", "rosbags", "tf2_msgs", "triton", "vision_msgs"}


def imported(files: list[Path]) -> set[str]:
    """Top-level names of all modules that the files import, also inside functions."""
    names = set().union(*map(imported_by, files))
    return names - {"upsnet_ros"} - set(sys.stdlib_module_names)


@cache
def imported_by(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def requirements(name: str) -> list[str]:
    """The requirements of a file, without comments."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def project_name(requirement: str) -> str:
    return re.split(r"[<>=!~;\[ ]", requirement)[0].lower()


def setup_argument(name: str) -> Any:
    """What setup.py passes to setup()."""
    call = next(
        node
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )
    return ast.literal_eval(next(item.value for item in call.keywords if item.arg == name))


INSTALL_REQUIRES = {project_name(entry) for entry in setup_argument("install_requires")}
EXTRAS = {
    extra: {project_name(entry) for entry in entries}
    for extra, entries in setup_argument("extras_require").items()
}


def dependencies(*tags: str) -> set[str]:
    return {element.text or "" for tag in tags for element in MANIFEST.iter(tag)}


def test_one_version():
    version = MANIFEST.findtext("version")
    assert f'version="{version}"' in (ROOT / "setup.py").read_text()
    assert f'__version__ = "{version}"' in (ROOT / "upsnet_ros/__init__.py").read_text()


def test_one_licence():
    assert MANIFEST.findtext("license") == "Apache-2.0"
    assert 'license="Apache-2.0"' in (ROOT / "setup.py").read_text()
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_every_message_and_service_is_built():
    listed = set(re.findall(r"msg[/:][\w/]+\.(?:msg|srv)", (ROOT / "CMakeLists.txt").read_text()))
    files = {str(file.relative_to(ROOT)) for file in (ROOT / "msg").rglob("*") if file.is_file()}
    assert {name.replace(":", "/") for name in listed} == files


def test_config_and_launch_files_are_installed_by_colcon_and_by_pip(monkeypatch):
    assert (ROOT / "config/labels/coco_to_cityscapes.yaml").is_file()
    assert "install(DIRECTORY config launch" in (ROOT / "CMakeLists.txt").read_text()
    given = {}
    monkeypatch.setattr("setuptools.setup", lambda **values: given.update(values))
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    shipped = {
        str(Path(folder, Path(file).name).relative_to("share/upsnet_ros"))
        for folder, files in given["data_files"]
        for file in files
    }
    there = {
        str(file.relative_to(ROOT))
        for folder in ("config", "launch", "msg")
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and file.suffix not in (".pyc", ".srv")
    }
    assert shipped == there
    assert "config/nav2/costmap.yaml" in shipped


def test_package_xml_names_every_ros_module_that_is_imported():
    files = [*MODULES, *(ROOT / "launch").glob("*.py")]
    needed = imported(files) & (ROS_MODULES | ROSDEP_KEYS.keys())
    keys = {ROSDEP_KEYS.get(module, module) for module in needed}
    assert keys - dependencies("depend", "exec_depend") == set()


def test_setup_py_names_every_module_that_pip_must_bring():
    names = ("training", "datasets", "synthetic", "evaluation", "bags", "bag_evaluation")
    folders = [ROOT / "upsnet_ros" / name for name in names]
    extra = {file for file in MODULES if any(file.is_relative_to(folder) for folder in folders)}
    extra -= {ROOT / "upsnet_ros/datasets/label_map.py"}  # the predictor reads them
    core = pip_names(imported([file for file in MODULES if file not in extra]))
    assert core == INSTALL_REQUIRES
    extras = (EXTRAS[extra] for extra in ("train", "evaluate", "bags", "cluster"))
    assert pip_names(imported(MODULES)) <= INSTALL_REQUIRES.union(*extras)


def pip_names(modules: set[str]) -> set[str]:
    return {PIP_NAMES.get(module, module) for module in modules - ROS_MODULES - OPTIONAL}


@pytest.mark.parametrize("file", sorted((ROOT / "requirements").iterdir()), ids=lambda f: f.name)
def test_requirements_are_pinned_exactly(file):
    for requirement in requirements(file.name):
        assert re.fullmatch(r'[\w.-]+==[\w.]+(; python_version [<>=]+ "3\.\d+")?', requirement)


def test_ros_wheels_stay_in_files_of_their_own():
    wheels = {"ros.txt", "messages.txt"}
    for file in (ROOT / "requirements").iterdir():
        if file.name not in wheels:
            assert not [line for line in requirements(file.name) if line.startswith("ros-")]
    assert not [
        name for name in INSTALL_REQUIRES.union(*EXTRAS.values()) if name.startswith("ros-")
    ]


def test_requirements_cover_setup_py():
    pinned = {project_name(line) for line in requirements("base.txt") + requirements("torch.txt")}
    tried = {project_name(line) for line in requirements("dev.txt")}
    assert INSTALL_REQUIRES.union(*EXTRAS.values()) - EXTRAS["cluster"] <= pinned
    assert EXTRAS["cluster"] <= tried


def test_every_folder_of_modules_is_a_package():
    folders = {file.parent for file in MODULES}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_no_path_of_a_machine_is_in_the_sources():
    pattern = re.compile(rb"(?<![\w.-])/(work|root|home)/\w")
    folders = ("cmake", "config", "docs", "launch", "msg", "requirements", "scripts", "upsnet_ros")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file()]
    files += [file for file in ROOT.iterdir() if file.is_file()]
    # In a worktree `.git` is a file, which names the repository.
    sources = [file for file in files if ".pyc" not in file.name and file.name != ".git"]
    assert [str(file) for file in sources if pattern.search(file.read_bytes())] == []
