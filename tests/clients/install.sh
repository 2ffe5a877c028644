#!/bin/sh
# Install the programs that read our files into a folder of their own: install.sh FOLDER PYTHON
# npm packages, Blender as a Python module, readers of datasets, and an OpenUSD that still has `usdchecker --arkit`. Godot, Chromium, Node and
# exiftool are the system's: where one is missing, apt-get installs it.
set -eu
here=$(dirname "$0"); folder=$1; python=$2
system=""
for pair in godot3-server:godot3-server godot3:godot3 xvfb-run:xvfb chromium:chromium npm:npm exiftool:libimage-exiftool-perl; do
    command -v "${pair%%:*}" >/dev/null || system="$system ${pair#*:}"
done
if [ -n "$system" ]; then
    as=""; [ "$(id -u)" = 0 ] || as=sudo
    $as apt-get install --yes --no-install-recommends $system
fi
mkdir -p "$folder"
cp "$here/package.json" "$folder/package.json"
npm install --prefix "$folder" --legacy-peer-deps --no-audit --no-fund --ignore-scripts --silent
[ -x "$folder/blender/bin/python" ] || "$python" -m venv "$folder/blender"
"$folder/blender/bin/python" -m pip install --quiet --disable-pip-version-check bpy==5.0.1
[ -x "$folder/datasets/bin/python" ] || "$python" -m venv "$folder/datasets"
"$folder/datasets/bin/python" -m pip install --quiet --disable-pip-version-check webdataset==1.0.2 datasets==5.2.0 pillow
[ -x "$folder/usd/bin/python" ] || "$python" -m venv "$folder/usd"
"$folder/usd/bin/python" -m pip install --quiet --disable-pip-version-check usd-core==25.11
# its wheel came without the definitions of UsdPreviewSurface's shaders: those of the newer one serve
plugins() { "$1" -c 'import pathlib, pxr; print(pathlib.Path(pxr.__file__).parent / "pluginfo")'; }
new=$(plugins "$python"); old=$(plugins "$folder/usd/bin/python")
cp -r "$new/usdShaders" "$old/"
cp -r "$new/usdHydra/resources/shaders" "$old/usdHydra/resources/"
