"""Labs: network namespaces joined by veth pairs, for trials and tests on one machine.

    with Lab("line", hosts=2, queues=2, mtu=9000) as lab:
        lab.run("a", ["ping", "-c", "1", lab.address("b")])

plan.py        what a lab is to be: hosts, links, addresses. Pure data.
names.py       how a lab's namespaces are called, and which there are.
build.py       carries a plan out.
vlan.py        the interface of a VLAN, on kernels without one too.
survey.py      what is there, asked of the kernel: nothing about a lab is kept anywhere else.
processes.py   who is inside a namespace, and ending them.
lab.py         the Python API.
picture.py     who is where, for people.
commands.py    `raceway lab up|down|show|run`.
"""

from __future__ import annotations

from raceway.apps.lab.lab import Lab as Lab
from raceway.apps.lab.names import LabError as LabError
from raceway.apps.lab.plan import Shape as Shape
