"""Official weights in, ours out: the safe reader of untrusted files, the tables of official names, safetensors."""
