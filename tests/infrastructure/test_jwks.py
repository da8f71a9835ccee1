"""Tokens that are checked with the published keys of the user service.

The service may be down or slow, or give no usable answer.
"""

import asyncio
import base64
import hmac
import json
import threading
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from infrastructure.access.jwks import MAX_BYTES, JwksKeys, JwksTimes
from infrastructure.access.refusals import CannotCheckCredential, InvalidCredential
from infrastructure.access.tokens import TokenVerifier
from infrastructure.settings import Settings
from tests.user_service import SigningKey, UserService, claims, user_service

RSA, EC, ED, NEW, UNKNOWN = (
    SigningKey("rsa", "RS256"),
    SigningKey("ec", "ES256"),
    SigningKey("ed", "EdDSA"),
    SigningKey("new", "EdDSA"),
    SigningKey("unknown", "EdDSA"),
)


def verifier(service: UserService, **times: float) -> TokenVerifier:
    """By default, the keys are read again without a pause."""
    waits = JwksTimes(**{"answer": 0.5, "retry": 0, "first_retry": 0, **times})
    return TokenVerifier(
        Settings(auth_mode="jwt", auth_jwks_url=service.url), JwksKeys(service.url, waits), max_remembered=1
    )


class HeldReads:
    """A read waits until `answer` is called, and gets the keys that were published when the read began."""

    def __init__(self, service: UserService, *keys: SigningKey) -> None:
        self._service = service
        self._begun, self._answers = threading.Semaphore(0), threading.Semaphore(0)
        self.publish(*keys)

    def publish(self, *keys: SigningKey) -> None:
        self._service.publish(*keys)
        published = self._service.answer

        def answer() -> tuple[int, bytes]:
            self._begun.release()
            self._answers.acquire(timeout=5)
            return published()

        self._service.answer = answer

    async def next(self) -> None:
        """Waits until the next read has begun."""
        assert await asyncio.to_thread(self._begun.acquire, timeout=5)

    def answer(self) -> None:
        self._answers.release()


async def refusal(checked: TokenVerifier, token: str) -> str:
    with pytest.raises(InvalidCredential) as refused:
        await checked.principal_of(token)
    return str(refused.value)


NOT_ACCEPTED = "The token is not signed with a key and an algorithm that this store accepts."
NOT_VALID = "The token is not valid."


async def test_each_kind_of_key_is_accepted_and_the_keys_are_read_once() -> None:
    with user_service(RSA, EC, ED) as service:
        checked = verifier(service)
        for key in (RSA, EC, ED) * 3:
            assert (await checked.principal_of(key.token(sub=key.algorithm))).subject == key.algorithm
        assert service.requests == 1


async def test_a_signature_with_another_key_or_algorithm_is_refused() -> None:
    with user_service(RSA, EC, ED) as service:
        checked = verifier(service)
        assert await refusal(checked, ED.token()[:-4] + "AAAA") == NOT_VALID
        assert await refusal(checked, UNKNOWN.token(header={"kid": "ed"})) == NOT_VALID
        assert await refusal(checked, EC.token(header={"kid": "rsa"})) == NOT_ACCEPTED
        assert await refusal(checked, _hs256_with_public_key()) == NOT_ACCEPTED
        assert await refusal(checked, jwt.encode(claims(), "", "none", {"kid": "rsa"})) == NOT_ACCEPTED
        assert await refusal(checked, jwt.encode(claims(), RSA.private, "RS512", {"kid": "rsa"})) == NOT_ACCEPTED
        assert await refusal(checked, jwt.encode(claims(), RSA.private, "PS256", {"kid": "rsa"})) == NOT_ACCEPTED


async def test_the_only_key_of_an_algorithm_needs_no_key_id() -> None:
    nameless = SigningKey(None, "EdDSA")
    with user_service(RSA, nameless) as service:
        checked = verifier(service)
        assert await checked.principal_of(nameless.token())
        assert await checked.principal_of(jwt.encode(claims(), RSA.private, "RS256"))
    with user_service(ED, NEW) as service:
        assert await refusal(verifier(service), jwt.encode(claims(), ED.private, "EdDSA")) == NOT_ACCEPTED


async def test_keys_that_cannot_check_a_signature_are_skipped() -> None:
    unusable: list[Any] = [
        7,
        None,
        {},
        {"kty": 5, "kid": "a"},
        {"kty": "RSA", "kid": "a"},
        {"kty": "RSA", "kid": "a", "n": 5, "e": []},
        {"kty": "EC", "kid": "a", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "oct", "kid": "a", "k": "AAAA", "alg": "HS256"},
        {"kty": ["OKP"], "kid": "a", "alg": {}},
        RSA.jwk(use="enc", kid="a"),
        RSA.jwk(kid=["a"]),
        RSA.jwk(alg="RS512", kid="a"),
    ]
    with user_service() as service:
        body = json.dumps({"keys": [*unusable, ED.jwk()]}).encode()
        service.answer = lambda: (200, body)
        checked = verifier(service)
        assert await checked.principal_of(ED.token())
        assert await refusal(checked, RSA.token(header={"kid": "a"})) == NOT_ACCEPTED
        assert await refusal(checked, jwt.encode(claims(), RSA.private, "RS512", {"kid": "a"})) == NOT_ACCEPTED


async def test_a_new_key_is_found_at_its_first_use() -> None:
    with user_service(ED) as service:
        checked = verifier(service)
        old = ED.token()
        assert await checked.principal_of(old)
        service.publish(ED, NEW)
        assert await checked.principal_of(NEW.token())
        service.publish(NEW)
        assert await checked.principal_of(ED.token())  # known until the keys are read again
        assert await refusal(checked, UNKNOWN.token())
        assert await refusal(checked, ED.token())
        assert await refusal(checked, old)
        assert await checked.principal_of(NEW.token())


async def test_old_keys_are_read_again_in_the_background() -> None:
    with user_service(ED) as service:
        checked = verifier(service, refresh=0)
        token = ED.token()
        assert await checked.principal_of(token)
        service.publish(NEW)
        async with asyncio.timeout(10):
            while True:  # a remembered token is refused too
                try:
                    await checked.principal_of(token)
                except InvalidCredential:
                    break
                await asyncio.sleep(0.01)


async def test_tokens_with_unknown_key_ids_do_not_cause_many_reads() -> None:
    with user_service(ED) as service:
        checked = verifier(service, retry=60)
        assert await checked.principal_of(ED.token())
        tokens = [UNKNOWN.token(header={"kid": f"k{number}"}) for number in range(200)]
        for round_number in range(2):
            refusals = await asyncio.gather(*(refusal(checked, token) for token in tokens))
            assert set(refusals) == {NOT_ACCEPTED}, round_number
        assert service.requests == 1  # the keys were read a moment ago
    with user_service(ED) as service:
        checked = verifier(service, retry=0.2)
        assert await checked.principal_of(ED.token())
        await asyncio.sleep(0.2)
        await asyncio.gather(*(refusal(checked, token) for token in tokens))
        assert service.requests == 3  # all tokens waited for one read, and all but the first for one more


async def test_waiting_requests_find_a_key_that_is_published_during_a_read() -> None:
    with user_service(ED) as service:
        reads = HeldReads(service, ED)
        checked = verifier(service, answer=10, retry=60, first_retry=60)
        first = asyncio.create_task(checked.principal_of(ED.token()))
        await reads.next()
        reads.publish(ED, NEW)
        waiting = [asyncio.create_task(checked.principal_of(NEW.token(sub=str(number)))) for number in range(20)]
        await asyncio.sleep(0)
        reads.answer()
        await reads.next()
        reads.answer()
        assert (await first).subject == "ann"
        assert [principal.subject for principal in await asyncio.gather(*waiting)] == [*map(str, range(20))]
        assert service.requests == 2


async def test_unknown_key_ids_cause_at_most_two_reads_without_a_pause() -> None:
    with user_service(ED) as service:
        reads = HeldReads(service, ED)
        checked = verifier(service, answer=10, retry=60, first_retry=60)
        unknown = UNKNOWN.token()
        waiting = [asyncio.create_task(refusal(checked, unknown))]
        for _ in range(2):
            await reads.next()
            waiting += [asyncio.create_task(refusal(checked, unknown)) for _ in range(20)]
            await asyncio.sleep(0)
            reads.answer()
        assert set(await asyncio.gather(*waiting)) == {NOT_ACCEPTED}
        assert service.requests == 2


async def test_a_read_that_failed_is_not_repeated_without_a_pause() -> None:
    with user_service(ED) as service:
        reads = HeldReads(service)
        checked = verifier(service, answer=10, retry=60, first_retry=60)
        first = asyncio.create_task(checked.principal_of(ED.token()))
        await reads.next()
        waiting = [asyncio.create_task(checked.principal_of(ED.token())) for _ in range(20)]
        await asyncio.sleep(0)
        reads.answer()
        for outcome in await asyncio.gather(first, *waiting, return_exceptions=True):
            assert isinstance(outcome, CannotCheckCredential)
        assert service.requests == 1


async def test_each_token_makes_the_store_try_again_until_it_has_keys() -> None:
    with user_service(ED) as service:
        port = service.port
        service.answer = lambda: (500, b"")
        checked = verifier(service)
        for _ in range(2):
            with pytest.raises(CannotCheckCredential):
                await checked.principal_of(ED.token())
    with pytest.raises(CannotCheckCredential):  # nothing listens
        await checked.principal_of(ED.token())
    with user_service(ED, port=port):
        assert await checked.principal_of(ED.token())


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, json.dumps({"keys": [NEW.jwk()]}).encode()),
        (302, json.dumps({"keys": [NEW.jwk()]}).encode()),
        (200, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"keys": 7}'),
        (200, b'{"keys": []}'),
        (200, b'{"keys": ' + b"[" * 100_000),
        (200, b'{"keys": ["\xff"]}'),
        (200, json.dumps({"keys": [NEW.jwk()], "more": "x" * MAX_BYTES}).encode()),
    ],
    ids=["500", "302", "empty", "html", "list", "number", "none", "nested", "not-utf8", "huge"],
)
async def test_known_keys_work_while_the_user_service_gives_no_usable_answer(status: int, body: bytes) -> None:
    with user_service(ED) as service:
        checked = verifier(service)
        assert await checked.principal_of(ED.token())
        service.answer = lambda: (status, body)
        assert await refusal(checked, NEW.token()) == NOT_ACCEPTED
        assert await checked.principal_of(ED.token())
        assert service.requests == 2


async def test_known_keys_work_at_once_while_the_user_service_is_slow() -> None:
    with user_service(ED) as service:
        checked = verifier(service, answer=1, retry=0.2)
        assert await checked.principal_of(ED.token())
        await asyncio.sleep(0.2)

        def slow() -> tuple[int, bytes]:
            time.sleep(1.5)
            return 200, b"{}"

        service.answer = slow
        unknown = [asyncio.create_task(refusal(checked, NEW.token())) for _ in range(20)]
        await asyncio.sleep(0.05)
        for number in range(5):
            assert await checked.principal_of(ED.token(sub=f"user-{number}"))
        assert not any(task.done() for task in unknown)
        async with asyncio.timeout(5):
            assert set(await asyncio.gather(*unknown)) == {NOT_ACCEPTED}
        assert service.requests == 2


async def test_an_answer_that_comes_too_slowly_is_not_used() -> None:
    with user_service(ED) as service:
        checked = verifier(service, answer=0.4)
        assert await checked.principal_of(ED.token())
        service.publish(ED, NEW)
        service.seconds_per_byte = 0.1
        async with asyncio.timeout(5):
            assert await refusal(checked, NEW.token()) == NOT_ACCEPTED


async def test_while_the_keys_change_no_valid_token_is_refused() -> None:
    keys = [SigningKey(f"key-{number}", "EdDSA") for number in range(20)]
    with user_service(keys[0]) as service:
        checked = verifier(service, refresh=0.02)
        current, accepted = 0, 0

        async def send() -> None:
            nonlocal accepted
            while current < len(keys) - 1:
                await checked.principal_of(keys[current].token())
                accepted += 1
                await asyncio.sleep(0)

        senders = [asyncio.create_task(send()) for _ in range(8)]
        for number in range(1, len(keys)):
            # Old keys stay published, so tokens with old keys are valid.
            service.publish(*keys[: number + 1])
            current = number
            await asyncio.sleep(0.03)
        await asyncio.gather(*senders)
        assert accepted > 100
        service.publish(keys[-1])
        async with asyncio.timeout(10):
            while await _accepts(checked, keys[-2].token()):  # noqa: ASYNC110 - nothing notifies of it
                await asyncio.sleep(0.01)
        assert await checked.principal_of(keys[-1].token())


def _hs256_with_public_key() -> str:
    """HMAC with the public RSA key as the secret. PyJWT refuses to make such a token."""
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "kid": "rsa"}, claims())]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    pem = RSA.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signature = hmac.digest(pem, signed, "sha256")
    return f"{signed.decode()}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


async def _accepts(checked: TokenVerifier, token: str) -> bool:
    try:
        await checked.principal_of(token)
    except InvalidCredential:
        return False
    return True
