"""Writers that are killed, and whether what they were told is stored really is."""
