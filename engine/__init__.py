"""The engine floor: everything that turns prompt ids into tokens. Imports nothing of the other floors.

To read it in one sitting, from the outside in:

- `protocol`: what may be asked of any engine. `client` (own process) and `aio` (own thread) satisfy it through `front`;
  `ipc`, `server` and `driver` carry the calls to the core.
- `intake` reads requests beside the steps; `history` remembers the chains of those that have ended.
- `local`: the core. `LocalEngine.step` is the loop: expire leases, schedule, run, deliver.
- `scheduler` decides what a step computes, over `sequence`s: `waiting` orders the queue, `admission` foresees memory,
  `tables` finds and lists blocks. `kv.cache` joins two tiers of `kv.blocks` (who holds a block) and `kv.prefix` (what
  is inside) with `kv.leases` (until when).
- `runner` lays a step out for `models.decoder`, which is made of `ops`; `sampler` and `grammar` choose the tokens,
  `speculation` guesses them, `lora` lets adapters change what the model says.
- `loading` builds it all from a model directory: `config`, `weights`, `text`.
"""
