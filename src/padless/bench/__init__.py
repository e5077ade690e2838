"""Measurements that users can repeat: kills at named moments (``chaos``) and the time a resume takes (``resume``)."""
