"""A client with strict handlers, for namespaces.test.js: python-socketio's own, on asyncio.

Usage: client.py URL NAMESPACE...

Prints one JSON object a line: {"nsp", "event", "args"} for each event, {"nsp", "connected": sid},
{"nsp", "disconnected": true} and {"error"} for what its handlers raise.
"""
import asyncio
import json
import sys
import traceback

import socketio

url, namespaces = sys.argv[1], sys.argv[2:]
sio = socketio.AsyncClient(reconnection_delay=0.05, reconnection_delay_max=0.2, randomization_factor=0)


def say(**what):
    print(json.dumps(what), flush=True)


def register(nsp):
    @sio.on("connect", namespace=nsp)
    async def connected():
        say(nsp=nsp, connected=sio.get_sid(nsp))

    @sio.on("disconnect", namespace=nsp)
    async def disconnected():
        say(nsp=nsp, disconnected=True)

    @sio.on("n", namespace=nsp)
    async def n(number):
        say(nsp=nsp, event="n", args=[number])

    @sio.on("pair", namespace=nsp)
    async def pair(first, second):
        say(nsp=nsp, event="pair", args=[first, second if isinstance(second, str) else len(second)])

    @sio.on("question", namespace=nsp)
    async def question(number):
        return number + 1


async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: say(error="".join(traceback.format_exception(context["exception"]))[-300:]))
    for nsp in namespaces:
        register(nsp)
    await sio.connect(url, namespaces=namespaces, transports=["websocket"])
    await sio.wait()


asyncio.run(main())
