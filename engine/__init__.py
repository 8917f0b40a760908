"""The engine floor: everything that turns prompt ids into tokens. Imports nothing of the other floors."""
