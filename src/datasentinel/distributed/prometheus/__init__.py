"""`datasentinel watch`: scores the series of a Prometheus-compatible server, and writes the scores back.

In the order of the data: `config` and `presets` say what is watched, `client` asks the server, `samples`
joins the answers to rows, `fitting` trains on them, `scoring` scores them with what `states` remembers,
`exposition` and `remote_write` publish. `watcher` is one model's life, `run` that of all. `rules` and
`dashboard` are for those who read the scores.
"""
