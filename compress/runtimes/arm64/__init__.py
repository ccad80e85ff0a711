"""Run artifacts on emulated ARM: a phone's kernels (NEON), on an x86-64 Linux machine, by user-mode emulation.

`root` says where the emulated system lies and whether it is whole, `setup` makes it, `emulate` runs one artifact in
it, and `inside` is what runs there. Numbers come out of it, never times: an emulator's speed is nobody's.
"""
