"""Networks: they return maps, never losses."""
