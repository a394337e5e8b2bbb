"""Triton's requests -> arrays, and results -> its responses."""

from __future__ import annotations  # pb_utils gets its classes only after this import

from typing import Any

import triton_python_backend_utils as pb_utils

from ensemble.contract import codec_limits
from ensemble.contract.errors import INTERNAL, kind_of
from ensemble.contract.facts import Facts
from ensemble.contract.manifest import refuse_changed
from ensemble.contract.tensors import MODELS
from ensemble.serving import wire
from ensemble.serving.metrics import Metrics
from ensemble.serving.stand_in.answer_cache import PARAMETER, AnswerCache, key_of
from ensemble.serving.stand_in.batch import Arrays, Run, run_batch
from ensemble.serving.stand_in.served_model import ServedModel


def exported_facts(model: ServedModel, also: tuple[str, ...] = ()) -> Facts | None:
    """Refuse artefacts that are not those of the export; None for a model that is not this
    project's, or an export that says nothing.

    Args:
        model: The model.
        also: Files beside its artefact that may serve in its place.

    Raises:
        ValueError: Says which file differs.
    """
    if model.name not in MODELS:
        return None
    names = (model.artefact.name, *also)
    return refuse_changed(model.artefact.parent, names, pb_utils.Logger.log_warn)


class Answering:
    """Answers the requests of one batch: those that may be run, with one run where possible."""

    def __init__(self, model: ServedModel, run: Run, facts: Facts | None) -> None:
        """Serve a model.

        Args:
            model: The model; its parameter ANSWER_CACHE_BYTES says how much is kept of answers.
            run: From the inputs of one run to its outputs.
            facts: The checkpoint's, for the limits of the codec.
        """
        self._model, self._run, self._facts = model, run, facts
        self._cache = AnswerCache(model.number(PARAMETER))
        self._metrics = Metrics()

    def __call__(self, requests: list[Any]) -> list[Any]:
        """Answer requests, in order."""
        arrays = [{t.name(): t.as_numpy() for t in request.inputs()} for request in requests]
        results = [self._known(each) for each in arrays]
        to_run = [i for i, result in enumerate(results) if result is None]
        run = run_batch(self._model, [arrays[i] for i in to_run], self._run) if to_run else []
        for i, result in zip(to_run, run, strict=True):
            results[i] = result
            if self._cache.max_bytes and not isinstance(result, Exception):
                self._cache.put(key_of(arrays[i]), result)
        if self._cache.max_bytes:
            self._metrics.count(f"{self._model.name}_cache_hits_total", self._cache.hits)
            self._metrics.count(f"{self._model.name}_cache_misses_total", self._cache.misses)
        return [self._response(*pair) for pair in zip(requests, results, strict=True)]

    def close(self) -> None:
        """Free the metrics."""
        self._metrics.close()

    def _known(self, arrays: Arrays) -> Arrays | Exception | None:
        """What a request gets without a run: a refusal, or a kept answer."""
        if self._facts is not None and self._model.name in codec_limits.LIMITED:
            try:
                codec_limits.refuse(self._model.name, arrays, self._facts)
            except ValueError as problem:
                return problem
        return self._cache.get(key_of(arrays)) if self._cache.max_bytes else None

    def _response(self, request: Any, result: Arrays | Exception | None) -> Any:
        if isinstance(result, Exception):
            if kind_of(result) is INTERNAL:
                result = RuntimeError(f"{type(result).__name__}: {result}")
            return wire.error(self._model.name, result, request.request_id())
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(n, a) for n, a in (result or {}).items()]
        )
