"""Triton's spans, by the standard variables of OpenTelemetry."""

import os
from collections.abc import Mapping

_ENDPOINT, _TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


def flags(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Arguments of tritonserver that send spans to the variables' collector; none without one.

    Only requests whose caller sends a `traceparent` are recorded, so that the caller samples.
    """
    base = environment.get(_ENDPOINT, "").rstrip("/")
    url = environment.get(_TRACES_ENDPOINT) or (base and f"{base}/v1/traces")
    if not url or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ()
    name = environment.get("OTEL_SERVICE_NAME", "voicereel-server")
    delay_ms = environment.get("OTEL_BSP_SCHEDULE_DELAY", "5000")
    return (
        "--trace-config=mode=opentelemetry",
        "--trace-config=level=TIMESTAMPS",
        "--trace-config=rate=0",  # those with a traceparent are recorded whatever the rate
        f"--trace-config=opentelemetry,url={url}",
        f"--trace-config=opentelemetry,resource=service.name={name}",
        f"--trace-config=opentelemetry,bsp_schedule_delay={delay_ms}",
    )
