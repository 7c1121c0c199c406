"""Writes the log of a made-up shop: ``python make_shop.py shop`` makes shop/day_1.csv to shop/day_10.csv.

Clicks depend on user, item, price (cheaper is better) and age (25 to 40 click more); all else is noise. With a second
argument, ``python make_shop.py shop_tags tags``, each row has up to four tags too, which clicks depend on.
"""

import csv
import math
import random
import sys
from datetime import datetime, timedelta
from pathlib import Path

COLUMNS = ["event_id", "time", "clicked", "user_id", "item", "device", "unit price", "age"]


def write(folder: Path, days: int = 10, rows: int = 4000, seed: int = 0, tags: bool = False) -> None:
    """One file a day, rows in order of time."""
    draw = random.Random(seed)
    taste = [draw.gauss(0, 0.7) for _ in range(2000)]
    appeal = [draw.gauss(0, 0.7) for _ in range(300)]
    draw_tags = random.Random(seed + 1)
    pull = {f"t{number}": draw_tags.gauss(0, 1.5) for number in range(50)}
    folder.mkdir(parents=True, exist_ok=True)
    for day in range(days):
        with (folder / f"day_{day + 1}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow([*COLUMNS, *(["tags"] if tags else [])])
            for row in range(rows):
                time = datetime(2024, 5, 1 + day) + timedelta(seconds=86_400 * row // rows)
                user, item = (min(int(draw.paretovariate(0.7)), len(values)) - 1 for values in (taste, appeal))
                price, age = math.exp(draw.gauss(3, 1.5)), draw.choice([*range(18, 80), None])
                young = age is not None and 25 <= age <= 40
                score = -1.2 + taste[user] + appeal[item] - 0.5 * (math.log(price) - 3) + young
                some = draw_tags.sample([*pull], draw_tags.randrange(5)) if tags else []
                score += sum(pull[tag] for tag in some) / max(len(some), 1)
                clicked = int(draw.random() < 1 / (1 + math.exp(-score)))
                device = draw.choice(["phone", "tablet", "desktop"])
                values = [clicked, f"u{user}", f"i{item}", device, f"{price:.2f}", age]
                last = ["|".join(some)] if tags else []
                table.writerow([f"e{day * rows + row:06}", time.isoformat(), *values, *last])


if __name__ == "__main__":
    write(Path(sys.argv[1]), tags="tags" in sys.argv[2:])
