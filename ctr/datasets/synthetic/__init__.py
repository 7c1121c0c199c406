"""Generated logs in the raw formats, with a planted click model."""
