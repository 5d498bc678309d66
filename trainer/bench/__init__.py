"""Speed on this machine, each figure beside a plain loop measured in the same run."""
