"""A robot on its own RabbitMQ, as the AMQP contract describes it and nothing more.

It takes goals from the fanout exchange `serverToRobot`, drives for a fixed time, and says on
`robotToServer` that it has arrived. It shares no code with the gateway, so that a mistake in
one is not hidden by the same mistake in the other.

Prints `ready` each time that it has begun to consume. Appends to the log, one JSON object a
line, with `t` in seconds of the monotonic clock and `at` in seconds since 1970:
  {"t", "got": BODY}                          a command, as it came
  {"t", "sent": BODY, "for": "x,y"}           an arrival that the broker confirmed
  {"t", "unsure": BODY, "for": "x,y"}         an arrival cut off before its confirm; it is sent again
  {"t", "status": {...}}                      json only
In json, `sent` and `unsure` also carry `command`, the id that was answered.
"""

import argparse
import json
import re
import signal
import sys
import time

import pika
from pika.exceptions import AMQPError

TO_ROBOT = "serverToRobot"
FROM_ROBOT = "robotToServer"
IDLE, MOVING, STOPPED, ARRIVED = "대기", "이동중", "정지", "도착"
GOAL = re.compile(r"\s*([+-]?\d+(?:\.\d+)?)\s*,\s*([+-]?\d+(?:\.\d+)?)\s*")

RECONNECT_SECONDS = 0.2
STATUS_SECONDS = 1.0
# How long the client may block: the most that SIGTERM has to wait.
POLL_SECONDS = 0.05
BATTERY_PER_SECOND = 0.01


class Log:
    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")

    def event(self, **fields):
        line = json.dumps({"t": time.monotonic(), "at": time.time(), **fields}, ensure_ascii=False)
        self.file.write(line + "\n")
        self.file.flush()


class Trip:
    """One drive in a straight line, from where the robot stood when the goal came."""

    def __init__(self, start, goal, label, command, seconds):
        self.start = start
        self.goal = goal
        self.label = label
        self.command = command
        self.began = time.monotonic()
        self.seconds = seconds
        self.next_status = self.began

    def due(self):
        return self.began + self.seconds

    def position(self, now):
        share = 1.0 if self.seconds <= 0 else min(1.0, (now - self.began) / self.seconds)
        return tuple(a + (b - a) * share for a, b in zip(self.start, self.goal))


class Robot:
    def __init__(self, log, wire, travel_time, floor, heeds_stop=True):
        self.heeds_stop = heeds_stop
        self.log = log
        self.json = wire == "json"
        self.travel_time = travel_time
        self.position = (0.0, 0.0)
        self.floor = floor
        self.state = IDLE
        self.trip = None
        # Arrivals that the broker has not confirmed: a robot arrives with its broker away too.
        self.arrivals = []
        self.statuses = []
        self.started = time.monotonic()
        # It has not said yet that it was started.
        self.is_new = False

    def handle(self, body):
        text = body.decode("utf-8", errors="replace")
        self.log.event(got=text)
        if self.json:
            self.handle_json(text)
        elif text.strip() == "stop":
            self.halt()
        elif match := GOAL.fullmatch(text):
            self.go_to(float(match[1]), float(match[2]), text, None)

    def handle_json(self, text):
        try:
            command = json.loads(text)["command"]
            kind = command["kind"]
            if kind == "stop":
                self.halt()
            elif kind == "go_to":
                x, y = float(command["x"]), float(command["y"])
                self.floor = command.get("floor", self.floor)
                self.go_to(x, y, f"{command['x']},{command['y']}", command["id"])
        except (ValueError, KeyError, TypeError) as error:
            # What it does not understand must not make it drive, nor end it.
            print(f"not a command: {error!r}: {text[:200]}", file=sys.stderr, flush=True)

    def go_to(self, x, y, label, command):
        now = time.monotonic()
        if self.trip:
            self.position = self.trip.position(now)
        self.trip = Trip(self.position, (x, y), label, command, self.travel_time)
        self.state = MOVING

    def halt(self):
        if self.heeds_stop:
            self.stop()

    def stop(self):
        now = time.monotonic()
        if self.trip:
            self.position = self.trip.position(now)
            self.trip = None
        self.state = STOPPED
        self.report(now)

    def tick(self, now):
        """Moves time on; what there is to say is left in `arrivals` and `statuses`."""
        trip = self.trip
        if not trip:
            return
        if now >= trip.due():
            self.position = trip.goal
            self.trip = None
            self.state = ARRIVED
            self.report(now)
            self.arrivals.append(trip)
        elif now >= trip.next_status:
            trip.next_status += STATUS_SECONDS
            self.position = trip.position(now)
            self.report(now)

    def report(self, now):
        if not self.json:
            return
        x, y = self.position
        # Only the newest is worth sending after a time without a broker.
        self.statuses = [
            {
                "state": self.state,
                "x": x,
                "y": y,
                "theta": 0.0,
                "floor": self.floor,
                "battery": max(0.0, 100.0 - BATTERY_PER_SECOND * (now - self.started)),
            }
        ]

    def wait(self, now):
        """Seconds until there is something to do."""
        if not self.trip:
            return POLL_SECONDS
        due = min(self.trip.due(), self.trip.next_status) if self.json else self.trip.due()
        return min(POLL_SECONDS, max(0.0, due - now))

    def publish(self, channel):
        if self.is_new:
            send(channel, json.dumps({"event": {"kind": "started"}}))
            self.is_new = False
        while self.statuses:
            status = self.statuses.pop()
            send(channel, json.dumps({"status": status}, ensure_ascii=False))
            self.log.event(status=status)
        while self.arrivals:
            trip = self.arrivals[0]
            body, named = ARRIVED, {"for": trip.label}
            if self.json:
                body = json.dumps({"event": {"kind": "arrived", "command": trip.command}})
                named["command"] = trip.command
            try:
                send(channel, body)
            except AMQPError:
                self.log.event(unsure=body, **named)
                raise
            self.arrivals.pop(0)
            self.log.event(sent=body, **named)


def send(channel, body):
    channel.basic_publish(FROM_ROBOT, "", body.encode("utf-8"))


def consume(robot, parameters, stopping):
    """One connection, until it breaks or the robot is told to end."""
    connection = pika.BlockingConnection(parameters)
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        for exchange in (TO_ROBOT, FROM_ROBOT):
            channel.exchange_declare(exchange, exchange_type="fanout", durable=False)
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, TO_ROBOT)
        channel.basic_consume(
            queue, lambda _channel, _method, _properties, body: robot.handle(body), auto_ack=True
        )
        print("ready", flush=True)
        while not stopping():
            robot.tick(time.monotonic())
            robot.publish(channel)
            connection.process_data_events(time_limit=robot.wait(time.monotonic()))
            if not channel.is_open:
                return
    finally:
        if connection.is_open:
            connection.close()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True, help="amqp://user:password@host:port/vhost")
    parser.add_argument("--log", required=True, help="file to append to")
    parser.add_argument("--travel-time", type=float, default=1.0, help="seconds for any trip")
    parser.add_argument("--wire", choices=("text", "json"), default="text")
    parser.add_argument("--floor", type=int, default=1, help="floor in its statuses")
    parser.add_argument("--heedless", action="store_true", help="drive on when told to stop")
    parser.add_argument("--announce", action="store_true", help="say that it was started; json only")
    arguments = parser.parse_args()

    parameters = pika.URLParameters(arguments.url)
    parameters.heartbeat = 10
    parameters.socket_timeout = 2
    parameters.stack_timeout = 4
    parameters.blocked_connection_timeout = 10
    parameters.connection_attempts = 1

    robot = Robot(
        Log(arguments.log),
        arguments.wire,
        arguments.travel_time,
        arguments.floor,
        heeds_stop=not arguments.heedless,
    )
    robot.is_new = arguments.announce
    ended = []
    away = None
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: ended.append(True))
    while not ended:
        try:
            consume(robot, parameters, lambda: bool(ended))
        except (AMQPError, OSError) as error:
            # One line for each way to be away, not one for each attempt.
            if (reason := repr(error)) != away:
                print(f"broker away: {reason}", file=sys.stderr, flush=True)
            away = reason
        # It drives on with its broker away.
        back = time.monotonic() + RECONNECT_SECONDS
        while not ended and (now := time.monotonic()) < back:
            robot.tick(now)
            time.sleep(min(POLL_SECONDS, back - now))


if __name__ == "__main__":
    main()
