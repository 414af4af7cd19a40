"""BedrockBackend through boto3 against a service on loopback that speaks AWS's JSON."""

import asyncio
import json
import math
import pickle
import re
import threading
import time
import traceback
from dataclasses import replace

import pytest

pytest.importorskip("boto3", reason="needs the extra `bedrock`")

from rerank_plugins import (
    AuthenticationError,
    BackendError,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    InvalidResponse,
    MissingDependencyError,
    load_backend,
)
from rerank_plugins.backends.bedrock import BedrockBackend
from rerank_plugins.testing import (
    BackendContract,
    FakeResponse,
    FakeServer,
    cut_short,
    drip,
    hang_up,
    in_turn,
    reset,
    silence,
    word_overlap,
)
from tests.backends.http.remote import DOCUMENTS, EXPECTED, QUERY
from tests.support.monitoring import wait_until

MODEL = "cohere.rerank-v3-5:0"
ARN = f"arn:aws:bedrock:us-west-2::foundation-model/{MODEL}"
SECRET, TOKEN = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "IQoJb3JpZ2luX2VjEXAMPLETOKEN=="


def use_account(patch, folder):
    """Give credentials, and none of this machine's."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION"):
        patch.delenv(name, raising=False)
    patch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    patch.setenv("AWS_SESSION_TOKEN", TOKEN)
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    patch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "credentials"))


@pytest.fixture(autouse=True)
def _account(monkeypatch, tmp_path):
    use_account(monkeypatch, tmp_path)


def rerank(received):
    """Answer like the Rerank operation, as strict as its published model."""
    body = received.body
    query = body["queries"][0]["textQuery"]["text"]
    texts = [source["inlineDocumentSource"]["textDocument"]["text"] for source in body["sources"]]
    configuration = body["rerankingConfiguration"]["bedrockRerankingConfiguration"]
    wrong = (
        body.keys() - {"queries", "sources", "rerankingConfiguration", "nextToken"}
        or any(source["type"] != "INLINE" for source in body["sources"])
        or any(source["inlineDocumentSource"]["type"] != "TEXT" for source in body["sources"])
        or not all(1 <= len(text) <= 32_000 for text in [query, *texts])
        or not 1 <= len(texts) <= 1_000
        or not 1 <= configuration["numberOfResults"] <= 1_000
        or configuration["modelConfiguration"]["modelArn"] != ARN
    )
    if wrong or received.path != "/rerank":
        return refusal(400, "ValidationException", "a constraint is not kept")
    results = [
        {"index": index, "relevanceScore": word_overlap(query, text)}
        for index, text in enumerate(texts)
    ]
    results.sort(key=lambda result: -result["relevanceScore"])
    return FakeResponse({"results": results[: configuration["numberOfResults"]]})


def refusal(status, code, message, headers=None):
    return FakeResponse({"message": message}, status, {"x-amzn-ErrorType": code, **(headers or {})})


@pytest.fixture
def aws():
    with FakeServer(rerank) as fake_server:
        yield fake_server


def build(aws, **options):
    return BedrockBackend(MODEL, **{"region": "us-west-2", "endpoint_url": aws.url} | options)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A service and one backend for many tests: boto3 takes a while to make a client."""
    with pytest.MonkeyPatch.context() as patch, FakeServer(rerank) as fake_server:
        use_account(patch, tmp_path_factory.mktemp("account"))
        with build(fake_server) as backend:
            backend.score(QUERY, DOCUMENTS)
            yield fake_server, backend


@pytest.fixture
def refuse(shared):
    """Give a function that asks for scores, and returns the error that a response becomes."""
    fake_server, backend = shared

    def refuse(response, error):
        fake_server.response = response
        fake_server.requests.clear()
        with pytest.raises(error) as caught:
            backend.score(QUERY, DOCUMENTS)
        assert error is type(caught.value)
        assert (None, None) == (caught.value.__cause__, caught.value.__context__)
        assert 1 == len(fake_server.requests)
        return caught.value

    return refuse


class TestContract(BackendContract):
    @pytest.fixture(autouse=True)
    def _server(self, aws):
        self.aws = aws

    def make_backend(self):
        return build(self.aws, timeout=60.0)


def test_a_request_is_signed_and_complete(aws, ask):
    scores = ask(build(aws))

    assert pytest.approx(EXPECTED) == list(scores)
    assert ("probability", f"bedrock:{MODEL}") == (scores.scale, scores.label)
    (request,) = aws.requests
    scope = "/us-west-2/bedrock/aws4_request"
    assert request.headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert scope in request.headers["Authorization"]
    assert TOKEN == request.headers["X-Amz-Security-Token"]
    assert len(DOCUMENTS) == len(request.body["sources"])


def test_an_arn_is_sent_as_it_is(aws, ask):
    arn = "arn:aws:bedrock:us-west-2:123456789012:provisioned-model/abc"
    aws.response = FakeResponse({"results": [{"index": 0, "relevanceScore": 0.5}]})
    assert [0.5] == ask(BedrockBackend(arn, region="us-west-2", endpoint_url=aws.url), ["a"])
    configuration = aws.requests[0].body["rerankingConfiguration"]["bedrockRerankingConfiguration"]

    assert arn == configuration["modelConfiguration"]["modelArn"]


@pytest.mark.parametrize(
    ("region", "partition"), [("us-gov-west-1", "aws-us-gov"), ("cn-north-1", "aws-cn")]
)
def test_the_arn_of_a_model_names_the_partition_of_its_region(aws, region, partition):
    aws.response = FakeResponse({"results": [{"index": 0, "relevanceScore": 0.5}]})
    with build(aws, region=region) as backend:
        backend.score(QUERY, ["a"])
    text = json.dumps(aws.requests[0].body)

    assert f"arn:{partition}:bedrock:{region}::foundation-model/{MODEL}" in text


def test_blank_documents_and_long_ones_are_sent_as_the_service_takes_them(aws, ask):
    scores = ask(build(aws), ["", " \n", "panda " * 10_000, "panda"])

    assert {2} == scores.truncated
    assert 4 == len(scores)


def test_results_in_pages_are_joined(aws, ask):
    aws.response = in_turn(
        FakeResponse({"results": [{"index": 1, "relevanceScore": 0.5}], "nextToken": "page2"}),
        FakeResponse({"results": [{"index": 0, "relevanceScore": 0.25}]}),
    )

    assert [0.25, 0.5] == ask(build(aws))
    assert "page2" == aws.requests[1].body["nextToken"]


def test_pages_without_end_are_an_error(aws, ask):
    aws.response = FakeResponse(
        {"results": [{"index": 1, "relevanceScore": 0.5}], "nextToken": "again"}
    )

    with pytest.raises(InvalidResponse, match="3 scores for 2 documents"):
        ask(build(aws))


def test_a_call_is_split_into_requests_that_the_service_takes(aws, ask):
    scores = ask(build(aws, max_documents=3), ["panda", "hi"] * 5)

    assert [word_overlap(QUERY, "panda"), 0.0] * 5 == list(scores)
    assert [1, 3, 3, 3] == sorted(len(request.body["sources"]) for request in aws.requests)


REFUSALS = {
    "throttled": (429, "ThrottlingException", BackendOverloaded),
    "a quota": (400, "ServiceQuotaExceededException", BackendOverloaded),
    "no access": (403, "AccessDeniedException", AuthenticationError),
    "an unknown key": (403, "UnrecognizedClientException", AuthenticationError),
    "a wrong signature": (403, "InvalidSignatureException", AuthenticationError),
    "an expired token": (400, "ExpiredTokenException", AuthenticationError),
    "a broken rule": (400, "ValidationException", BackendRejected),
    "no such model": (404, "ResourceNotFoundException", BackendRejected),
    "a conflict": (409, "ConflictException", BackendRejected),
    "a dependency": (424, "DependencyFailedException", BackendUnavailable),
    "a gateway": (502, "BadGatewayException", BackendUnavailable),
    "a fault": (500, "InternalServerException", BackendUnavailable),
    "too busy": (503, "ServiceUnavailableException", BackendOverloaded),
    "too slow": (504, "", BackendTimeout),
    "a code of tomorrow": (418, "TeapotException", BackendRejected),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_each_refusal_is_one_error_and_no_retry(refuse, case):
    status, code, error = REFUSALS[case]

    assert re.search(f"answered {status} {code}.*because", str(refuse(_refusal(case), error)))


def _refusal(case):
    return refusal(*REFUSALS[case][:2], "because")


def test_an_async_call_gets_the_same_errors(aws):
    async def call():
        async with build(aws) as backend:
            await backend.ascore(QUERY, DOCUMENTS)

    for case in ("throttled", "no access"):
        aws.response = _refusal(case)
        with pytest.raises(REFUSALS[case][2]):
            asyncio.run(call())


def test_the_time_to_wait_is_passed_on(refuse):
    response = refusal(429, "ThrottlingException", "slow down", {"Retry-After": "7"})

    assert 7 == refuse(response, BackendOverloaded).retry_after


@pytest.mark.parametrize("secret", [SECRET, TOKEN, DOCUMENTS[1], QUERY])
def test_no_message_holds_a_secret_or_a_text(refuse, secret):
    response = refusal(403, "InvalidSignatureException", f"should have been {secret} but …")

    assert secret not in str(refuse(response, AuthenticationError))


@pytest.mark.parametrize("secret", [SECRET, TOKEN])
def test_no_code_of_an_error_holds_a_secret(refuse, secret):
    assert secret not in str(refuse(refusal(403, secret, "no"), AuthenticationError))


BROKEN = {
    "no object": FakeResponse(b"[1]"),
    "not UTF-8": FakeResponse(b'{"results": "\xff"}'),
    "too deep": FakeResponse(b'{"results":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "results of another type": FakeResponse(b'{"results": {"a": 1}}'),
    "numbers as results": FakeResponse(b'{"results": [1, 2]}'),
    "no JSON": FakeResponse(b"<html>", content_type="text/html"),
    "no results": FakeResponse({}),
    "one too few": FakeResponse({"results": [{"index": 0, "relevanceScore": 0.5}]}),
    "one twice": FakeResponse({"results": [{"index": 0, "relevanceScore": 0.5}] * 2}),
    "NaN": FakeResponse(
        b'{"results": [{"index": 0, "relevanceScore": NaN}, {"index": 1, "relevanceScore": 1}]}'
    ),
    "a logit": FakeResponse(
        {"results": [{"index": 0, "relevanceScore": 3.5}, {"index": 1, "relevanceScore": 0}]}
    ),
    "null": FakeResponse(
        {"results": [{"index": 0, "relevanceScore": None}, {"index": 1, "relevanceScore": 0}]}
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_response_is_an_invalid_one(refuse, case):
    error = BackendError if case == "too deep" else InvalidResponse
    assert str(refuse(BROKEN[case], error)).startswith("bedrock at 127.0.0.1")


@pytest.mark.parametrize("case", ["no object", "not UTF-8", "too deep"])
def test_an_unreadable_refusal_is_told_by_its_status(refuse, case):
    assert "503" in str(refuse(replace(BROKEN[case], status=503), BackendOverloaded))


@pytest.mark.parametrize("case", [*BROKEN, "a flood"])
def test_no_frame_of_an_error_holds_the_request(refuse, case):
    """Reporters of crashes print the local variables of all frames."""
    response = BROKEN.get(case, _flood)
    error = refuse(response, BackendError if case in ("too deep", "a flood") else InvalidResponse)
    frames = traceback.walk_tb(error.__traceback__)

    assert not [frame for frame, _ in frames if "boto" in frame.f_globals["__name__"].split(".")[0]]


def test_one_deadline_holds_for_a_call(aws, ask):
    aws.response = silence

    with pytest.raises(BackendTimeout, match=r"0\.3 s"):
        ask(build(aws, timeout=0.3))


def _flood(received):
    def write(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        for _ in range(1_000):
            handler.wfile.write(b" " * 1_000_000)

    return write


def test_a_response_without_end_is_not_read_to_it(aws, ask):
    aws.response = _flood

    with pytest.raises(BackendError, match="the response is over 1000000 bytes"):
        ask(build(aws))


def test_a_page_of_an_error_without_end_is_not_read_to_it(aws, ask):
    aws.response = FakeResponse(b" " * 2_000_000, 500)

    with pytest.raises(BackendError, match="the response is over 1000000 bytes"):
        ask(build(aws))


def test_nothing_more_is_asked_after_the_deadline(aws, ask):
    def page(received):
        time.sleep(0.2)
        return FakeResponse(
            {"results": [{"index": len(aws.requests) - 1, "relevanceScore": 1}], "nextToken": "x"}
        )

    aws.response = page
    with pytest.raises(BackendTimeout):
        ask(build(aws, timeout=0.5), ["a"] * 100)
    time.sleep(0.6)
    asked = len(aws.requests)
    time.sleep(0.6)

    assert asked == len(aws.requests)


@pytest.mark.parametrize("behaviour", [cut_short, reset, hang_up])
def test_a_connection_that_breaks_is_unavailable(aws, ask, behaviour):
    aws.response = behaviour

    with pytest.raises(BackendUnavailable):
        ask(build(aws))


def _dripping(start, piece):
    """Drip a head that never ends."""

    def write(handler):
        handler.wfile.write(start)
        while True:
            handler.wfile.write(piece)
            time.sleep(0.01)

    return lambda received: write


SLOW = {
    "body": drip(),
    "head": drip(head=True),
    "interim responses": _dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "one header": _dripping(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
    "the first line": _dripping(b"HTTP/1.1 ", b"2"),
}


@pytest.mark.parametrize("case", SLOW)
def test_a_response_that_drips_is_too_slow_and_keeps_no_thread(aws, ask, case):
    aws.response = SLOW[case]

    with pytest.raises(BackendTimeout):
        ask(build(aws, timeout=0.3))
    wait_until(lambda: not any("rerank-bedrock" in thread.name for thread in threading.enumerate()))
    aws.response = rerank
    assert EXPECTED == ask(build(aws))


def test_a_service_that_is_gone_is_unavailable(ask):
    with FakeServer(rerank) as gone:
        backend = build(gone)
    with pytest.raises(BackendUnavailable):
        ask(backend)


def test_missing_credentials_are_named(aws, monkeypatch, ask):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    backend = build(aws)

    with pytest.raises(ConfigError, match="needs credentials: set AWS_ACCESS_KEY_ID"):
        backend.check_requirements()
    with pytest.raises(AuthenticationError, match="set AWS_ACCESS_KEY_ID"):
        ask(backend)


def test_a_missing_region_is_named(aws, ask):
    backend = BedrockBackend(MODEL, endpoint_url=aws.url)

    with pytest.raises(ConfigError, match="needs a region: set `region`, or AWS_REGION"):
        backend.check_requirements()
    with pytest.raises(ConfigError, match="set `region`, or AWS_REGION"):
        ask(backend)


def test_a_missing_profile_is_named(aws, ask):
    backend = build(aws, profile="nobody")
    for use in (backend.check_requirements, lambda: ask(backend)):
        with pytest.raises(ConfigError, match="nobody"):
            use()


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_region_may_come_from_the_environment(aws, monkeypatch, ask, variable):
    monkeypatch.setenv(variable, "us-west-2")
    backend = BedrockBackend(MODEL, endpoint_url=aws.url)
    backend.check_requirements()

    assert pytest.approx(EXPECTED) == list(ask(backend))


def test_boto3_is_an_extra(aws, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with build(aws) as backend:
        for use in (backend.check_requirements, lambda: backend.score(QUERY, DOCUMENTS)):
            with pytest.raises(MissingDependencyError, match=r"rerank-plugins\[bedrock\]"):
                use()


def test_a_spec_and_a_pickle_build_the_same_backend():
    spec = f"bedrock:{MODEL}?region=eu-central-1&timeout=3&max_parallel=2"
    backend = load_backend(spec)
    for other in (load_backend(backend.to_spec()), pickle.loads(pickle.dumps(backend))):
        assert backend.name == other.name
        assert backend.to_spec() == other.to_spec()
    assert "bedrock-agent-runtime.eu-central-1.amazonaws.com:443" == backend.endpoint


def test_the_name_tells_models_and_places_apart():
    names = [
        load_backend(spec).name
        for spec in (
            f"bedrock:{MODEL}",
            f"bedrock:{MODEL}?region=us-west-2",
            f"bedrock:{MODEL}?region=eu-central-1",
            "bedrock:amazon.rerank-v1:0?region=us-west-2",
        )
    ]

    assert len(names) == len({*names})


def test_wrappers_of_a_file_apply(aws, tmp_path):
    path = tmp_path / "rerank.toml"
    path.write_text(
        f'[backend]\nkind = "bedrock"\nmodel = "{MODEL}"\nregion = "us-west-2"\n'
        f'endpoint_url = "{aws.url}"\n[retry]\n[cache]\n'
    )
    aws.response = in_turn(refusal(500, "InternalServerException", "once"), rerank)
    with load_backend(path) as backend:
        assert pytest.approx(EXPECTED) == list(backend.score(QUERY, DOCUMENTS))
        assert 2 == backend.score(QUERY, DOCUMENTS).cached
    assert 2 == len(aws.requests)


def test_twenty_calls_at_once_keep_apart(aws):
    async def calls():
        async with build(aws) as backend:
            return await asyncio.gather(
                *(backend.ascore(QUERY, ["panda"] * n) for n in range(1, 21))
            )

    scores = asyncio.run(calls())

    assert [*range(1, 21)] == [len(each) for each in scores]
    assert all(
        math.isclose(score, word_overlap(QUERY, "panda")) for each in scores for score in each
    )


WRONG = {
    "a model is missing": ({"model": None}, "needs `model`"),
    "no URL": ({"endpoint_url": "gpu:80"}, "`endpoint_url` must be like"),
    "a URL with a user": ({"endpoint_url": "http://a:b@gpu"}, "`endpoint_url` must be like"),
    "no time": ({"timeout": 0}, "`timeout` must be"),
    "no documents": ({"max_documents": 0}, "`max_documents` must be"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_refused_when_the_backend_is_built(case):
    options, reason = WRONG[case]

    with pytest.raises(ConfigError, match=reason):
        BedrockBackend(**{"model": MODEL} | options)


def test_an_address_is_no_option_of_the_spec():
    with pytest.raises(ConfigError, match=r"unknown option 'base_url' .*endpoint_url"):
        load_backend(f"bedrock+http://gpu:80?model={MODEL}")


def test_errors_of_a_bug_are_not_hidden(aws, monkeypatch):
    monkeypatch.setattr(
        "rerank_plugins.backends.bedrock.backend._Client.rerank", lambda *args: 1 / 0
    )
    with build(aws) as backend, pytest.raises(ZeroDivisionError):
        backend.score(QUERY, DOCUMENTS)
    assert not issubclass(ZeroDivisionError, BackendError)
