"""A program of its own: clients that read 1 KB a second and ask for more all the same.

    python slow_readers.py GRPC_PORT TOKEN JOB_ID

Prints a line once they are at it; ends when its standard input does. Not in the process that
measures: so many threads there would be what is measured.
"""

from __future__ import annotations

import sys
import threading
import time

import grpc
from cuttable import Relay

from foxden_proto.v1 import generation_pb2 as gen
from foxden_proto.v1.generation_pb2_grpc import GenerationStub

READERS, STREAMS, BYTES_PER_SECOND = 4, 8, 1024


def main(port: int, token: str, job_id: str) -> None:
    metadata = [("authorization", f"Bearer {token}")]
    what = gen.DownloadRequest(picture=gen.PictureRef(job_id=job_id, index=0))

    def read(stub: GenerationStub) -> None:
        while True:
            for _ in stub.Download(what, metadata=metadata):
                pass

    for _ in range(READERS):
        relay = Relay(("127.0.0.1", port), rate=BYTES_PER_SECOND)
        stub = GenerationStub(grpc.insecure_channel(f"127.0.0.1:{relay.port}"))
        for _ in range(STREAMS):
            threading.Thread(target=read, args=(stub,), daemon=True).start()
    time.sleep(1)  # until what the kernel holds back for them is full
    print("reading", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
