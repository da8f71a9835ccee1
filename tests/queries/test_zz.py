import asyncio, time
async def test_long(cut_api, postgres, write, projector):
    cid = await write.start(*map(str, range(40)))
    await projector.catch_up()
    p=f"/v1/conversations/{cid}"
    await cut_api.get(p)
    await postgres.cut()
    t=time.monotonic()
    while time.monotonic()-t < 14:
        a=await cut_api.get(p); assert a.headers["x-consistency"]=="unverified"; await asyncio.sleep(.2)
    await postgres.mend(); t=time.monotonic()
    while True:
        a=await cut_api.get(p)
        if "x-consistency" not in a.headers: break
        await asyncio.sleep(.05)
    print("BACK AFTER", time.monotonic()-t)
    for path in (p, p+"/items", "/v1/conversations", p+"/events?limit=20"):
        for _ in range(20): await cut_api.get(path)
        t=time.perf_counter(); c=time.process_time()
        for _ in range(200): await cut_api.get(path)
        print("TIME", path[-8:], (time.perf_counter()-t)/200*1e3, "ms; cpu", (time.process_time()-c)/200*1e3)
        t=time.perf_counter()
        await asyncio.gather(*(cut_api.get(path) for _ in range(300)))
        print("  at once", (time.perf_counter()-t)/300*1e3)
