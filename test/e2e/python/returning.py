"""python-socketio's own client, for python-client.test.js and keyed.test.js. Its handlers are strict: one argument too many is a
TypeError on standard error.

Usage: returning.py threads|asyncio URL polling|websocket [NAMESPACE...]

Reads one JSON array a line: ["emit", NAMESPACE, NAME, ARGS...] or ["ask", NAMESPACE, NAME, ARGS...].
Prints one JSON object a line: {"nsp", "connected": sid}, {"nsp", "disconnected": true}, {"nsp", "n": number} and
{"nsp", "pair": [...]} for events, {"answer": [...]} for "ask", {"gone": true} when it gives up for good.
"""
import asyncio
import json
import os
import sys
import threading

import socketio

kind, url, transport, *namespaces = sys.argv[1:]
namespaces = namespaces or ["/"]
options = dict(reconnection_delay=0.1, reconnection_delay_max=0.3, randomization_factor=0)


printing = threading.Lock()  # handlers run on threads of their own


def say(**what):
    with printing:
        print(json.dumps(what), flush=True)


def plain(x):
    return len(x) if isinstance(x, bytes) else x


def register(sio):
    is_async = kind == "asyncio"

    def handler(nsp, name, function):
        async def later(*args):
            return function(*args)

        sio.on(name, later if is_async else function, namespace=nsp)

    def pair(nsp, first, second):
        say(nsp=nsp, pair=[plain(first), plain(second)])

    for nsp in namespaces:
        handler(nsp, "connect", lambda nsp=nsp: say(nsp=nsp, connected=sio.get_sid(nsp)))
        handler(nsp, "disconnect", lambda nsp=nsp: say(nsp=nsp, disconnected=True))
        # Not with a default argument, which would take one argument too many.
        handler(nsp, "n", (lambda nsp: lambda number: say(nsp=nsp, n=number))(nsp))
        handler(nsp, "pair", (lambda nsp: lambda first, second: pair(nsp, first, second))(nsp))
        handler(nsp, "question", (lambda nsp: lambda number: number + 1)(nsp))


def commands(run):
    for line in sys.stdin:
        run(*json.loads(line))


snippet = os.environ.get("SNIPPET", "")  # of docs/clients.md
exec(snippet.split("\nsio = ")[0])


def counting(sio):
    """The URL of a client of the snippet's, which it asks for at each connection."""
    base = url
    return lambda: f"{base}&hf_n={sio.handled()}"


if kind == "threads":
    sio = CountingClient(**options) if snippet else socketio.Client(**options)
    register(sio)
    if snippet:
        url = counting(sio)

    def run(verb, nsp, name, *args):
        answer = (lambda *got: say(answer=[plain(x) for x in got])) if verb == "ask" else None
        sio.emit(name, tuple(args), namespace=nsp, callback=answer)

    sio.connect(url, transports=[transport] if transport != "upgrade" else None, namespaces=namespaces, wait_timeout=10)
    threading.Thread(target=commands, args=[run], daemon=True).start()
    sio.wait()
    while sio.connected:  # wait ends although the client is back, if that took less than a second
        sio.wait()
else:

    async def main():
        sio = CountingAsyncClient(**options) if snippet else socketio.AsyncClient(**options)
        register(sio)
        loop = asyncio.get_running_loop()

        def run(verb, nsp, name, *args):
            answer = (lambda *got: say(answer=[plain(x) for x in got])) if verb == "ask" else None
            asyncio.run_coroutine_threadsafe(sio.emit(name, tuple(args), namespace=nsp, callback=answer), loop)

        await sio.connect(counting(sio) if snippet else url, transports=[transport] if transport != "upgrade" else None, namespaces=namespaces, wait_timeout=10)
        threading.Thread(target=commands, args=[run], daemon=True).start()
        await sio.wait()
        # Wait ends although the client is back, if that took less than a second.
        while sio.connected:
            await sio.wait()

    asyncio.run(main())
say(gone=True)
