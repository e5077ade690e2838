"""``padless doctor``: what a run would need of this machine, looked at before it starts. No Composer here."""
