-- Submits to one of the projects at random; each is stored and waits for its turn.
math.randomseed(os.time())
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"onConflict":"queue"}'
request = function() return wrk.format(nil, "/v1/projects/p" .. math.random(1, 200) .. "/deployments") end
