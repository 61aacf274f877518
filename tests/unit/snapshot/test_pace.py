from paceline.snapshot.pace import Meter, TokenBucket


def test_bucket_holds_the_rate_over_time() -> None:
    bucket, now = TokenBucket(1000), 5.0
    for _ in range(40):
        now += bucket.spend(250, now)
    assert 9.0 <= now - 5.0 <= 10.0


def test_bucket_does_not_save_more_than_its_burst() -> None:
    bucket = TokenBucket(1000)
    bucket.spend(250, 0.0)
    assert bucket.spend(500, 3600.0) == 0.25


def test_no_rate_never_waits() -> None:
    bucket = TokenBucket(0)
    assert bucket.spend(10**12, 0.0) == 0.0
    assert bucket.slice_bytes is None


def test_two_sessions_share_one_bucket() -> None:
    bucket = TokenBucket(1000)
    assert bucket.spend(1000, 0.0) == 0.75
    assert bucket.spend(1000, 0.0) == 1.75


def test_meter_tells_the_recent_speed() -> None:
    meter = Meter(0.0)
    assert meter.add(100, 0.5) == 200
    assert meter.add(100, 1.0) == 200
    meter.add(1000, 1.5)
    assert meter.add(1000, 2.0) == 2000
