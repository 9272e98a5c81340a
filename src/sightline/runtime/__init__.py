"""Arrays in, arrays out: the session protocol and its back ends. No torch here."""
