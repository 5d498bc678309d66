"""`python -m trainer`, also under torchrun and deepspeed."""

from trainer.cli import main

main()
