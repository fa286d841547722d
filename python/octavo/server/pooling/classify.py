"""POST /classify: which class each text is of."""

from aiohttp import web

from octavo._core import Pooled
from octavo.server.body import convert, read_object
from octavo.server.pooling.encoding import answer
from octavo.server.pooling.fields import CLASSIFICATION
from octavo.server.pooling.inputs import prompts_of
from octavo.server.pooling.pool import Pool, choose_task, params_of
from octavo.server.pooling.protocol import Classification, ClassificationRequest, ClassificationResponse
from octavo.server.request_id import request_id
from octavo.server.service import SERVICE
from octavo.server.whole import json_answer


async def post_classify(request: web.Request) -> web.Response:
    """The class of each text, and the probability of every one."""
    service = request.app[SERVICE]
    service.health.check_serving()
    asked = convert(CLASSIFICATION.check(await read_object(request)), ClassificationRequest)
    model = service.model_name(asked.model)
    task = choose_task(service, "classify", "score")
    params = params_of(service, asked, use_activation=asked.use_activation)
    prompts, special = await prompts_of(service, asked)
    identity = f"classify-{request_id(request, asked.request_id)}"
    with service.open_stream(asked.timeout) as stream:
        pool = Pool(service, stream, asked, id=identity, model=model, field="input")
        results = await pool.run(prompts, params.to_core(task), add_special_tokens=special)
    pool.log("classify", len(prompts))
    return await answer(results, lambda: json_answer(whole(pool, results)))


def whole(pool: Pool, results: list[Pooled]) -> ClassificationResponse:
    from octavo.vectors import array_of

    labels = pool.service.pooling.labels
    data = []
    for index, pooled in enumerate(results):
        values = array_of(pooled)
        data.append(Classification(index, labels.get(int(values.argmax())), values.tolist(), values.size))
    return ClassificationResponse(pool.id, pool.created, pool.model, data, pool.usage)
