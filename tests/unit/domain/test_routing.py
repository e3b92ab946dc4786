from gateway.domain.routing import RouteTable, UpstreamRoutes
from gateway.domain.tasks import Route

TABLE = RouteTable(
    [
        UpstreamRoutes("ark", ("main", "second"), {"house": "ep-1"}),
        UpstreamRoutes("byte", ("only",), {"house": "ep-2", "own": "ep-3"}),
    ]
)


def test_a_model_goes_to_the_first_upstream_that_names_it() -> None:
    assert TABLE.choose_route("house") == Route("ark", "main", "ep-1")
    assert TABLE.choose_route("own") == Route("byte", "only", "ep-3")


def test_a_model_that_none_names_goes_to_the_first_under_its_own_name() -> None:
    assert TABLE.choose_route("doubao-seedance") == Route("ark", "main", "doubao-seedance")


def test_without_upstreams_nothing_goes_anywhere() -> None:
    assert RouteTable([]).choose_route("house") is None
    assert RouteTable([]).pin_route("house", "ark", "main") is None


def test_what_builds_on_a_task_goes_to_the_credential_that_made_it() -> None:
    assert TABLE.pin_route("house", "ark", "second") == Route("ark", "second", "ep-1")
    assert TABLE.pin_route("own", "ark", "main") == Route("ark", "main", "own")
    assert TABLE.pin_route("house", "byte", "only") == Route("byte", "only", "ep-2")


def test_a_credential_that_is_gone_takes_nothing() -> None:
    assert TABLE.pin_route("house", "ark", "third") is None
    assert TABLE.pin_route("house", "gone", "main") is None
