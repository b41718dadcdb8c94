"""The backends a synchroniser can speak to, one file each."""
