"""What a training will take: from measured or published speeds to times, costs and a time line."""
