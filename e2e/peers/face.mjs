// A robot's face page without the page: connects with socket.io-client 2.x or 4.x, claims a
// robot, and prints every event it is sent, one JSON object a line.
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';

const USAGE = `usage: node face.mjs --client 2|4 --url http://HOST:PORT [--name ROBOTNAME]
                     [--transport websocket|polling|default] [--no-rebind]

On every connect it emits robotName ROBOTNAME; with --no-rebind on the first one only.
stdout: {"event": NAME, "args": [...]} for each event, and for the connection itself
        {"event": "#connect", "args": [SOCKET_ID]} and {"event": "#disconnect", "args": [REASON]}
stdin:  {"emit": [NAME, ARGS...]} emits; {"close": true} closes and exits`;

const { values: options } = parseArgs({
  options: {
    client: { type: 'string' },
    url: { type: 'string' },
    name: { type: 'string' },
    transport: { type: 'string', default: 'default' },
    'no-rebind': { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

if (options.help) {
  console.log(USAGE);
  process.exit(0);
}
const transports = { websocket: ['websocket'], polling: ['polling'], default: undefined };
if (!['2', '4'].includes(options.client) || !options.url || !(options.transport in transports)) {
  console.error(USAGE);
  process.exit(2);
}

const print = (event, args) => console.log(JSON.stringify({ event, args }));
// An acknowledgement callback comes as a last argument and is no data.
const data = (args) => args.filter((arg) => typeof arg !== 'function');

const { default: io } = await import(`socket.io-client-${options.client}`);
const socket = io(options.url, {
  forceNew: true,
  reconnectionDelay: 100,
  reconnectionDelayMax: 500,
  ...(transports[options.transport] && { transports: transports[options.transport] }),
});

if (options.client === '2') {
  // 2.x has no onAny. Its packets pass here before they are handed out by name.
  const deliver = socket.onevent;
  socket.onevent = (packet) => {
    const [event, ...args] = packet.data;
    print(event, data(args));
    deliver.call(socket, packet);
  };
} else {
  socket.onAny((event, ...args) => print(event, data(args)));
}

let claimed = false;
socket.on('connect', () => {
  print('#connect', [socket.id]);
  if (options.name !== undefined && !(claimed && options['no-rebind'])) {
    socket.emit('robotName', options.name);
    claimed = true;
  }
});
socket.on('disconnect', (reason) => print('#disconnect', [reason]));
socket.on('connect_error', (error) => console.error(`no connection: ${error.message ?? error}`));

for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  if (order.emit) {
    socket.emit(...order.emit);
  } else if (order.close) {
    socket.close();
    // What was emitted just before may still be on its way out.
    setTimeout(() => process.exit(0), 50);
  } else {
    console.error(`neither emit nor close: ${line}`);
  }
}
