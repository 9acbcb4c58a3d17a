"""python-socketio's own client, for python-client.test.js.

Usage: returning.py threads|asyncio URL polling|websocket

Prints one JSON object a line: {"connected": sid}, {"disconnected": true}, {"gone": true} when it gives up for good.
"""
import asyncio
import json
import sys

import socketio

kind, url, transport = sys.argv[1:]
options = dict(reconnection_delay=0.1, reconnection_delay_max=0.3, randomization_factor=0)


def say(**what):
    print(json.dumps(what), flush=True)


if kind == "threads":
    sio = socketio.Client(**options)
    sio.on("connect", lambda: say(connected=sio.get_sid("/")))
    sio.on("disconnect", lambda: say(disconnected=True))
    sio.connect(url, transports=[transport], wait_timeout=10)
    sio.wait()
else:

    async def main():
        sio = socketio.AsyncClient(**options)
        sio.on("connect", lambda: say(connected=sio.get_sid("/")))
        sio.on("disconnect", lambda: say(disconnected=True))
        await sio.connect(url, transports=[transport], wait_timeout=10)
        await sio.wait()

    asyncio.run(main())
say(gone=True)
