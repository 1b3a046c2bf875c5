"""A wire between two network namespaces, and what can go wrong with it.

Makes a TUN device on either side: the near one where this program runs, the far one in a namespace
that it makes and removes. It carries IP packets between them in user space, so it needs no traffic
control in the kernel, only the right to make devices and namespaces.

It takes orders, a line each, and answers each with `ok CARRIED LOST`, the packets so far:
  clear                     carry everything at once
  partition                 carry nothing
  mute near|far             carry nothing that this side sends
  loss PERCENT              lose so many packets in a hundred, each way
  delay SECONDS             each packet takes so long, each way
  mtu BYTES                 longer packets vanish, and nobody is told
  flap SECONDS              up for so long, down for so long, and so on
Conditions do not add up: each order replaces the one before. What is under way when a condition
changes still arrives. It ends when its input does.
"""

import argparse
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time

TUN = "/dev/net/tun"
TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
# What the devices allow; the condition `mtu` is below it.
MTU = 1500
PACKET = 65536
# Packets under way at a time in each direction, as in a router's buffer; the newest are lost beyond.
BUFFER = 20_000


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def open_tun(name):
    tun = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return tun


def set_up(arguments):
    """Makes the namespace and both devices; returns their descriptors."""
    near, far = (open_tun(f"{arguments.name}{side}") for side in "nf")
    run("ip", "netns", "add", arguments.namespace)
    run("ip", "link", "set", f"{arguments.name}f", "netns", arguments.namespace)
    inside = ("ip", "-n", arguments.namespace)
    run(*inside, "link", "set", "lo", "up")
    for ip, device, own, other in (
        (("ip",), f"{arguments.name}n", arguments.near, arguments.far),
        (inside, f"{arguments.name}f", arguments.far, arguments.near),
    ):
        run(*ip, "address", "add", own, "peer", other, "dev", device)
        run(*ip, "link", "set", device, "mtu", str(MTU), "up")
    return near, far


class Condition:
    def __init__(self, words=("clear",)):
        self.kind, *self.words = words
        self.began = time.monotonic()
        if self.kind in ("loss", "delay", "mtu", "flap"):
            self.value = float(self.words[0])
        elif self.kind == "mute":
            self.muted = {"near": 0, "far": 1}[self.words[0]]
        elif self.kind not in ("clear", "partition"):
            raise ValueError(f"no condition {self.kind!r}")

    def carries(self, side, packet, now):
        match self.kind:
            case "partition":
                return False
            case "mute":
                return side != self.muted
            case "loss":
                return random.random() * 100 >= self.value
            case "mtu":
                return len(packet) <= self.value
            case "flap":
                return int((now - self.began) / self.value) % 2 == 0
        return True

    def delay(self):
        return self.value if self.kind == "delay" else 0.0


class Wire:
    def __init__(self, tuns):
        self.tuns = tuns
        self.condition = Condition()
        # (when it is due, a running number, to which side, the packet)
        self.queue = []
        self.count = 0
        self.waiting = [0, 0]
        self.carried = 0
        self.lost = 0

    def take(self, side, now):
        """Takes what a side sends."""
        while True:
            try:
                packet = os.read(self.tuns[side], PACKET)
            except BlockingIOError:
                return
            to = 1 - side
            if not self.condition.carries(side, packet, now) or self.waiting[to] >= BUFFER:
                self.lost += 1
                continue
            self.carried += 1
            delay = self.condition.delay()
            if delay == 0.0 and self.waiting[to] == 0:
                self.give(to, packet)
                continue
            self.count += 1
            self.waiting[to] += 1
            heapq.heappush(self.queue, (now + delay, self.count, to, packet))

    def give(self, to, packet):
        try:
            os.write(self.tuns[to], packet)
        except (BlockingIOError, OSError):
            # A full device loses packets as any network does.
            pass

    def deliver(self, now):
        while self.queue and self.queue[0][0] <= now:
            _, _, to, packet = heapq.heappop(self.queue)
            self.waiting[to] -= 1
            self.give(to, packet)

    def due_in(self, now):
        return max(0.0, self.queue[0][0] - now) if self.queue else None


def serve(wire):
    orders = sys.stdin.buffer.raw
    left = b""
    while True:
        timeout = wire.due_in(time.monotonic())
        ready, _, _ = select.select([orders, *wire.tuns], [], [], timeout)
        now = time.monotonic()
        wire.deliver(now)
        for side, tun in enumerate(wire.tuns):
            if tun in ready:
                wire.take(side, now)
        if orders in ready:
            text = orders.read(4096)
            if not text:
                return
            *lines, left = (left + text).split(b"\n")
            for line in lines:
                wire.condition = Condition(line.decode().split())
                print("ok", wire.carried, wire.lost, flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--namespace", required=True, help="the far side's, made and removed here")
    parser.add_argument("--name", required=True, help="beginning of the devices' names")
    parser.add_argument("--near", required=True, help="the address of the near side")
    parser.add_argument("--far", required=True, help="the address of the far side")
    parser.add_argument("--seed", type=int, default=1, help="for what is lost")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    try:
        wire = Wire(set_up(arguments))
        print("ready", flush=True)
        serve(wire)
    finally:
        # The devices go with this process, the namespace does not. What still runs in it keeps it.
        subprocess.run(("ip", "netns", "delete", arguments.namespace), check=False)


if __name__ == "__main__":
    main()
