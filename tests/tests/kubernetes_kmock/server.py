"""Serves the emulator of a Kubernetes API that kmock brings, on a free port of loopback.

Prints the port as a line of its own, and goes on until it is killed. It adds nothing to kmock: what
is in the API arrives over HTTP, and is kept and told as kmock does it.
"""

import asyncio

import kmock


async def serve() -> None:
    emulator = kmock.KubernetesEmulator()
    # Without it, a kind of which there is no object yet is not known: listing it gives 404.
    emulator.resources.load_bundled()
    async with emulator, kmock.Server(emulator) as server:
        print(server.port, flush=True)
        await asyncio.Event().wait()


asyncio.run(serve())
