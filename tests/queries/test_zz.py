import asyncio, time, cProfile, pstats
from infrastructure.logging import configure_logging
async def test_p(api, write, projector):
    configure_logging("x","WARNING","ecs")
    cid = await write.start(*map(str, range(40)))
    await projector.catch_up()
    p=f"/v1/conversations/{cid}/items"
    for _ in range(50): await api.get(p)
    t=time.perf_counter(); c=time.process_time()
    for _ in range(300): await api.get(p)
    print("TIME", (time.perf_counter()-t)/300*1e3, "ms; cpu", (time.process_time()-c)/300*1e3)
    pr=cProfile.Profile(); pr.enable()
    for _ in range(300): await api.get(p)
    pr.disable()
    pstats.Stats(pr).sort_stats("tottime").print_stats(25)
    pstats.Stats(pr).sort_stats("cumtime").print_stats(70)
