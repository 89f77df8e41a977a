"""What is said before the link begins: who is asking, and whether it may."""

from __future__ import annotations

from foxden_proto.link_checks import LinkError, decode
from foxden_proto.proofs import SIGNATURE_BYTES
from foxden_proto.v1 import link_pb2 as pb


def rejection(reason: str, *, final: bool, retry_after: float = 0.0) -> bytes:
    """The one message a broker sends to an agent it will not talk to."""
    rejected = pb.Rejected(reason=reason, final=final, retry_after=retry_after)
    return pb.BrokerFrame(rejected=rejected).SerializeToString()


def challenge(nonce: bytes) -> bytes:
    """What a broker asks of an agent that has a key of its own."""
    return pb.BrokerFrame(challenge=pb.Challenge(nonce=nonce)).SerializeToString()


def pending(reason: str) -> bytes:
    """The agent has proved itself, and waits for somebody's yes. A sign of life, too."""
    return pb.BrokerFrame(pending=pb.Pending(reason=reason)).SerializeToString()


def admitted() -> bytes:
    """The agent may say hello."""
    return pb.BrokerFrame(admitted=pb.Admitted()).SerializeToString()


def read_proof(data: bytes) -> bytes:
    """The signature in the frame that answers a challenge. Raises LinkError."""
    frame = decode(data, pb.AgentFrame)
    if frame.WhichOneof("frame") != "proof":
        raise LinkError("the agent did not answer the challenge")
    signature: bytes = frame.proof.signature
    if len(signature) != SIGNATURE_BYTES:
        raise LinkError(f"a signature of {len(signature)} bytes")
    return signature
