"""Where base models come from: fetched, or trained here."""
