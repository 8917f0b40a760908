"""The engine floor: everything that turns prompt ids into tokens. Imports nothing of the other floors.

To read it in one sitting, from the outside in:

- `protocol`: what may be asked of any engine. `client` (own process) and `aio` (own thread) satisfy it through `front`;
  `ipc`, `server` and `driver` carry the calls to the core.
- `local`: the core. `LocalEngine.step` is the loop: expire leases, schedule, run, deliver.
- `scheduler` decides what a step computes, over `sequence`s; `kv.cache` joins `kv.blocks` (who holds a block),
  `kv.prefix` (what is inside) and `kv.leases` (until when).
- `runner` lays a step out for `models.decoder`, which is made of `ops`; `sampler` and `grammar` choose the tokens,
  `speculation` guesses them, `lora` lets adapters change what the model says.
- `loading` builds it all from a model directory: `config`, `weights`, `text`.
"""
