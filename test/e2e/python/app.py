"""The python-socketio application of python.test.js.

Usage: app.py wsgi|asgi PORT PING_INTERVAL PING_TIMEOUT [always_connect]

wsgi: the synchronous server in threads, which has no WebSocket; asgi: the asyncio server on
aiohttp, which has. Both serve the same events, and /ctl/... for the tests.
"""
import json
import sys

import engineio.packet
import socketio

kind, port, interval, timeout = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
log = {"connects": [], "disconnects": [], "received": [], "presence": [], "pings": 0}
options = dict(ping_interval=interval, ping_timeout=timeout, max_http_buffer_size=1000000, always_connect="always_connect" in sys.argv)


class CountedPacket(engineio.packet.Packet):
    """Counts the pings that the server makes."""

    def __init__(self, packet_type=engineio.packet.NOOP, *args, **kwargs):
        super().__init__(packet_type, *args, **kwargs)
        if self.packet_type == engineio.packet.PING:
            log["pings"] += 1


engineio.packet.Packet = CountedPacket


def payload(i):
    """Every third number comes with bytes, some of them nested."""
    return [i, bytes([i % 256] * (i % 500)), {"deep": [b"x", "ü€😀"]}] if i % 3 == 0 else [i, "text"]


if kind == "wsgi":
    from werkzeug.serving import WSGIRequestHandler, run_simple

    sio = socketio.Server(async_mode="threading", **options)

    def register(namespace):
        @sio.on("connect", namespace=namespace)
        def connect(sid, environ, auth=None):
            log["connects"].append({"sid": sid, "nsp": namespace, "auth": auth, "agent": environ.get("HTTP_USER_AGENT")})
            sio.enter_room(sid, "everyone", namespace=namespace)
            if isinstance(auth, dict) and auth.get("deny"):
                raise socketio.exceptions.ConnectionRefusedError("not you")

        @sio.on("disconnect", namespace=namespace)
        def disconnect(sid):
            log["disconnects"].append({"sid": sid, "nsp": namespace})

        @sio.on("client_parked", namespace=namespace)
        def parked(sid, info):
            log["presence"].append({"sid": sid, "event": "client_parked", "info": info})

        @sio.on("client_resumed", namespace=namespace)
        def resumed(sid, info):
            log["presence"].append({"sid": sid, "event": "client_resumed", "info": info})

        @sio.on("echo", namespace=namespace)
        def echo(sid, *args):
            return tuple(args)

        @sio.on("up", namespace=namespace)
        def up(sid, *args):
            log["received"].append(args[0])

    for name in ("/", "/admin"):
        register(name)

    def control(environ, start_response):
        path = environ["PATH_INFO"].strip("/").split("/")
        answer = log
        if path[0] != "ctl":
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"no such page\n"]
        if path[1] == "stream":  # /ctl/stream/SID/FROM/TO
            for i in range(int(path[3]), int(path[4]) + 1):
                sio.emit("n", tuple(payload(i)), to=path[2])
        elif path[1] == "flood":  # /ctl/flood/SID/COUNT/BYTES
            for i in range(1, int(path[3]) + 1):
                sio.emit("n", (i, "x" * int(path[4])), to=path[2])
        elif path[1] == "ask":  # /ctl/ask/SID: emits with an acknowledgement
            log["answer"] = None
            sio.emit("question", 20, to=path[2], callback=lambda *args: log.update(answer=args))
        elif path[1] == "kick":
            sio.disconnect(path[2])
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(answer, default=repr).encode()]

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *args):
            pass

    run_simple("127.0.0.1", port, socketio.WSGIApp(sio, control), threaded=True, request_handler=Handler)
else:
    from aiohttp import web

    sio = socketio.AsyncServer(async_mode="aiohttp", **options)

    def register(namespace):
        @sio.on("connect", namespace=namespace)
        async def connect(sid, environ, auth=None):
            log["connects"].append({"sid": sid, "nsp": namespace, "auth": auth, "agent": environ.get("HTTP_USER_AGENT")})
            sio.enter_room(sid, "everyone", namespace=namespace)
            if isinstance(auth, dict) and auth.get("deny"):
                raise socketio.exceptions.ConnectionRefusedError("not you")

        @sio.on("disconnect", namespace=namespace)
        async def disconnect(sid):
            log["disconnects"].append({"sid": sid, "nsp": namespace})

        @sio.on("client_parked", namespace=namespace)
        async def parked(sid, info):
            log["presence"].append({"sid": sid, "event": "client_parked", "info": info})

        @sio.on("client_resumed", namespace=namespace)
        async def resumed(sid, info):
            log["presence"].append({"sid": sid, "event": "client_resumed", "info": info})

        @sio.on("echo", namespace=namespace)
        async def echo(sid, *args):
            return tuple(args)

        @sio.on("up", namespace=namespace)
        async def up(sid, *args):
            log["received"].append(args[0])

    for name in ("/", "/admin"):
        register(name)

    async def control(request):
        path = request.path.strip("/").split("/")
        if path[1] == "stream":
            for i in range(int(path[3]), int(path[4]) + 1):
                await sio.emit("n", tuple(payload(i)), to=path[2])
        elif path[1] == "flood":
            for i in range(1, int(path[3]) + 1):
                await sio.emit("n", (i, "x" * int(path[4])), to=path[2])
        elif path[1] == "ask":
            log["answer"] = None
            await sio.emit("question", 20, to=path[2], callback=lambda *args: log.update(answer=args))
        elif path[1] == "kick":
            await sio.disconnect(path[2])
        return web.Response(text=json.dumps(log, default=repr), content_type="application/json")

    app = web.Application()
    sio.attach(app)
    app.router.add_get("/ctl/{rest:.*}", control)
    web.run_app(app, host="127.0.0.1", port=port, print=None, shutdown_timeout=0.5)
